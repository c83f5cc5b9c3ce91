"""``python -m tests.cluster.ask METHOD URL``, a JSON body on stdin: a management API's answer."""

import base64
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit, urlunsplit


def main(method: str, url: str, body: bytes) -> int:
    """Print what it answers; 1 if it does not, or says no."""
    parts = urlsplit(url)
    login = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    place = urlunsplit(parts._replace(netloc=f"{parts.hostname}:{parts.port}"))
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    data = body if method in ("PUT", "POST") else None
    request = urllib.request.Request(place, data, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            sys.stdout.write(answer.read().decode())
    except (OSError, urllib.error.URLError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.stdin.buffer.read()))
