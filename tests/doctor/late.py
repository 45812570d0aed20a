"""A proxy whose clock is an hour late while the file that it is told of is there."""

import email.utils
import http.server
import os
import sys
import time


class Late(http.server.BaseHTTPRequestHandler):
    def date_time_string(self, timestamp=None):
        late = 3600 if os.path.exists(sys.argv[1]) else 0
        return email.utils.formatdate(time.time() - late, usegmt=True)

    def do_GET(self):
        self.send_response(401 if self.path.startswith("/vnc/") else 200)
        self.send_header("x-request-id", "0")
        self.send_header("content-length", "0")
        self.end_headers()


http.server.HTTPServer(("127.0.0.1", 8081), Late).serve_forever()
