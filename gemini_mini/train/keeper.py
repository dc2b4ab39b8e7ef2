"""A process that only remembers: copies of the training state, in its memory, for those who come back.

It outlives the training processes of its host. Bytes go over a local or a network socket, behind a shared key;
nothing is ever unpickled.
"""

import json
import os
import sys
import threading
from multiprocessing import connection
from typing import BinaryIO

KEPT = 2  # copies of each owner: the one before stays until everybody has the next


def serve(address: tuple[str, int], key: bytes) -> None:
    """Answer until killed: a request is a JSON line, for "put" followed by the bytes."""
    copies: dict[int, dict[int, bytes]] = {}
    lock = threading.Lock()
    with connection.Listener(address, backlog=64) as listener:
        while True:
            try:
                client = listener.accept()
            except (OSError, EOFError):
                continue  # one who died at the door
            threading.Thread(target=_answer, args=(client, key, copies, lock), daemon=True).start()


def _answer(client: connection.Connection, key: bytes, copies: dict[int, dict[int, bytes]], lock: threading.Lock) -> None:
    with client:
        try:
            connection.deliver_challenge(client, key)  # here: a stranger who says nothing keeps nobody waiting
            connection.answer_challenge(client, key)
            request = json.loads(client.recv_bytes())
            data = client.recv_bytes() if request["do"] == "put" else b""
            with lock:
                mine = copies.setdefault(request["owner"], {})
                match request["do"]:
                    case "put":
                        mine[request["step"]] = data
                        for old in sorted(mine)[:-KEPT]:
                            del mine[old]
                        answer = b""
                    case "list":
                        answer = json.dumps(sorted(mine)).encode()
                    case "get":
                        answer = mine.get(request["step"], b"")
                    case "forget":
                        mine.clear()
                        answer = b""
            client.send_bytes(answer)
        except (EOFError, OSError, connection.AuthenticationError):
            pass  # who asked is gone, or a stranger


def ask(address: tuple[str, int], key: bytes, data: bytes | None = None, **request: int | str) -> bytes:
    """The answer of the keeper there. Raises: OSError or EOFError when there is none."""
    with connection.Client(address, authkey=key) as client:
        client.send_bytes(json.dumps(request).encode())
        if data is not None:
            client.send_bytes(data)
        return client.recv_bytes()


def end_with(pipe: BinaryIO) -> None:
    """End this process when the one that holds the other end of `pipe` does, however that came about."""
    def wait():
        while os.read(pipe.fileno(), 1):  # past Python's buffer, whose lock a thread may not hold at exit
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    shared = sys.stdin.buffer.readline().strip()
    end_with(sys.stdin.buffer)
    serve((sys.argv[1], int(sys.argv[2])), shared)
