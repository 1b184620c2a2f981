"""moto's server as a process of its own: it says its port on standard output, and ends with its standard input."""

import logging
import os
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.support.aws.moto_images import correct


def main() -> None:
    """Serve until whoever started this is gone."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    correct()
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
