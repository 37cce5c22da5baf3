"""The only sockets: two drivers, blocking and asyncio, for one and the same conversation."""
