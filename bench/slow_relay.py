"""A relay that takes its time: answers each mail after a delay, and counts what it accepted."""

import asyncio
import threading
from collections import Counter
from types import TracebackType
from typing import Self

CAPABILITIES = b"250-relay.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n"


class SlowRelay:
    """An SMTP server in a thread of its own; ``accepted`` counts by Message-ID."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.accepted: Counter[str] = Counter()
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait(10)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        listen = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**22, backlog=2048)
        server = self.loop.run_until_complete(listen)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self.loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 relay.example ESMTP\r\n")
            while line := await reader.readline():
                verb = line[:4].upper().strip()
                if verb == b"EHLO":
                    writer.write(CAPABILITIES)
                elif verb == b"DATA":
                    writer.write(b"354 go on\r\n")
                    content = await reader.readuntil(b"\r\n.\r\n")
                    await asyncio.sleep(self.delay)
                    self._count(content)
                    writer.write(b"250 2.0.0 taken\r\n")
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                else:
                    writer.write(b"250 ok\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _count(self, content: bytes) -> None:
        head = content.partition(b"\r\n\r\n")[0].decode("ascii", "replace")
        for line in head.split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "message-id":
                self.accepted[value.strip()] += 1
