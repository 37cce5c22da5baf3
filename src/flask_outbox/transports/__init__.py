"""Ways out: bytes in, bytes out, no I/O of their own; each is a conversation (mail/exchange.py)."""
