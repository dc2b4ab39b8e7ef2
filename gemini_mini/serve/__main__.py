"""Talk to a trained model in a browser: python -m gemini_mini.serve RUN [--port 8000]

    pip install -e '.[serve]'
    python -m gemini_mini.serve runs/demo

Type, drop pictures, sounds and clips, or record; text streams and pictures grow row by row. The page is
open to this machine alone, loads nothing from elsewhere, and keeps nothing on disk; the conversations used last
stay in memory until the program ends. From another machine: ssh -L 8000:127.0.0.1:8000 HOST. Ctrl-C ends the
answer under way and the page.
"""

import argparse
import socket
from pathlib import Path
from types import FrameType

from gemini_mini import api, errors, memory

try:
    import uvicorn

    from gemini_mini.serve import desk as desk_lib, web
except ModuleNotFoundError as error:
    raise SystemExit(f"error: the page needs {error.name}; pip install -e '.[serve]'") from None


class Server(uvicorn.Server):
    """Ends the answers before it waits for their connections to close."""

    def __init__(self, desk: desk_lib.Desk):
        super().__init__(uvicorn.Config(web.make_app(desk), log_level="warning", access_log=False, lifespan="off",
                                        limit_concurrency=32, timeout_graceful_shutdown=5))
        self.desk = desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.desk.close()
        super().handle_exit(sig, frame)


def listen(port: int) -> socket.socket:
    """A socket that only this machine can reach. Raises: InputError when the port cannot be had."""
    try:
        return socket.create_server((web.HOSTS[0], port))
    except (OSError, OverflowError) as error:
        raise errors.InputError(f"--port: {port} cannot be had ({error}); choose another, or 0 for any that is free") from None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gemini_mini.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder that train.py made, or a released file")
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0: any that is free")
    parser.add_argument("--eight-bit", action="store_true", help="weights of 8 bits: faster on a CPU; needs a C++ compiler")
    args = parser.parse_args()
    with listen(args.port) as door:
        desk = desk_lib.Desk(api.load(args.run, eight_bit=args.eight_bit))
        desk.warm_up()
        print(f"open http://{web.HOSTS[0]}:{door.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        try:
            Server(desk).run(sockets=[door])
        except KeyboardInterrupt:  # which uvicorn raises again when it has ended in order
            pass


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
