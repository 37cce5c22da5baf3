"""A name server of the tests' own, on loopback, over UDP and TCP: a zone is a dict.

::

    with serving({"shop.test": {"MX": ["10 mx.shop.test."]}, "sick.test": "SERVFAIL"}) as server:
        server.port, server.asked

A name that is not there, nor above one that is, is NXDOMAIN. In place of its records, or of those
of one kind, a name may have "SERVFAIL", "REFUSED" or "silence". What is longer than 512 octets is
cut short over UDP.
"""

import contextlib
import socketserver
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

SHORT = 512


class Zone:
    def __init__(self, names):
        self.names = names
        self.asked = []

    def answer(self, query):
        """Give the answer's octets; None is silence."""
        question = query.question[0]
        name = question.name.to_text().rstrip(".").lower()
        kind = question.rdtype.name
        self.asked.append((name, kind))
        held = self.names.get(name)
        if isinstance(held, dict) and isinstance(held.get(kind), str):
            held = held[kind]
        if held == "silence":
            return None
        response = dns.message.make_response(query)
        if isinstance(held, str):
            response.set_rcode(dns.rcode.from_text(held))
        elif held is None and not any(each.endswith(f".{name}") for each in self.names):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif held and kind in held:
            records = dns.rrset.from_text(question.name, 60, "IN", kind, *held[kind])
            response.answer.append(records)
        return response


class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        response = self.server.zone.answer(dns.message.from_wire(data))
        if response is None:
            return
        octets = response.to_wire()
        if len(octets) > SHORT:
            response.answer.clear()
            response.flags |= dns.flags.TC
            octets = response.to_wire()
        sock.sendto(octets, self.client_address)


class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        size = int.from_bytes(self.rfile.read(2), "big")
        response = self.server.zone.answer(dns.message.from_wire(self.rfile.read(size)))
        if response is not None:
            octets = response.to_wire()
            self.wfile.write(len(octets).to_bytes(2, "big") + octets)


class Server:
    """What a test sees of it: where it is, and what it was asked."""

    def __init__(self, zone, port):
        self.names = zone.names
        self.asked = zone.asked
        self.port = port


@contextlib.contextmanager
def serving(names):
    """Serve on one port of both kinds."""
    zone = Zone(names)
    with socketserver.TCPServer(("127.0.0.1", 0), Tcp) as tcp:
        port = tcp.server_address[1]
        with socketserver.UDPServer(("127.0.0.1", port), Udp) as udp:
            threads = []
            for each in (tcp, udp):
                each.zone = zone
                threads.append(threading.Thread(target=each.serve_forever, args=(0.01,)))
                threads[-1].start()
            try:
                yield Server(zone, port)
            finally:
                for each in (tcp, udp):
                    each.shutdown()
                for each in threads:
                    each.join()
