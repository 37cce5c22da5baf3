"""What an app can listen to, through blinker; the sender of each signal is the Flask app.

==================  ==========================  ===============================================
signal              sent                        with
==================  ==========================  ===============================================
email_dispatched    a transport took it, or     ``message``
                    sending is suppressed
message_queued      send_later wrote it down    ``message``, ``id``
message_sent        a recipient was accepted    ``message``, ``id``, ``receipt``, ``state``,
                                                ``reason``
message_deferred    it will be tried again      the same
message_failed      it is given up, nobody      the same
                    knows what became of it, or
                    it got too old
route_paused        a transport failed by our   ``route``, ``reason``, ``seconds``
                    own fault: nothing goes
                    that way for now
route_resumed       it works again              ``route``
worker_lost         a worker stopped beating    ``worker``, ``host``, ``pid``, ``beat_at``
==================  ==========================  ===============================================

``id`` is empty where the message was sent without the outbox. In a worker ``message`` is made
anew from the submission, and each signal runs in an app context of its own.

message_failed, but for what got too old, and the last three are alerts: each comes with a line in
the log at ERROR, and each event is told by one worker, however many there are.
"""

from blinker import NamedSignal, Namespace

signals: Namespace = Namespace()

email_dispatched: NamedSignal = signals.signal("email-dispatched")
message_queued: NamedSignal = signals.signal("message-queued")
message_sent: NamedSignal = signals.signal("message-sent")
message_deferred: NamedSignal = signals.signal("message-deferred")
message_failed: NamedSignal = signals.signal("message-failed")
route_paused: NamedSignal = signals.signal("route-paused")
route_resumed: NamedSignal = signals.signal("route-resumed")
worker_lost: NamedSignal = signals.signal("worker-lost")
