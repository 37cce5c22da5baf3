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
message_failed      it is given up, or nobody   the same
                    knows what became of it
==================  ==========================  ===============================================

``id`` is empty where the message was sent without the outbox. In a worker ``message`` is made
anew from the submission, and each signal runs in an app context of its own.
"""

from blinker import NamedSignal, Namespace

signals: Namespace = Namespace()

email_dispatched: NamedSignal = signals.signal("email-dispatched")
message_queued: NamedSignal = signals.signal("message-queued")
message_sent: NamedSignal = signals.signal("message-sent")
message_deferred: NamedSignal = signals.signal("message-deferred")
message_failed: NamedSignal = signals.signal("message-failed")
