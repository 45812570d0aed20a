"""How schemathesis logs in, and which of its cases would only saw off the branch it sits on."""

import json
import os
import urllib.request
import uuid

import schemathesis

URL = os.environ["LIMEN_URL"]


def me(token):
    request = urllib.request.Request(f"{URL}/api/auth/me", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["id"]


def login():
    body = {"username": "admin", "password": os.environ["ADMIN_PASSWORD"]}
    request = urllib.request.Request(
        f"{URL}/api/auth/login",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["access_token"]


@schemathesis.auth(refresh_interval=None)
class Bearer:
    token = None
    user = None

    def get(self, case, context):
        if context.operation.label == "POST /api/auth/logout":
            return login()
        if Bearer.token is None:
            Bearer.token = login()
            Bearer.user = me(Bearer.token)
        return Bearer.token

    def set(self, case, data, context):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_call(context, case, kwargs):
    # Its own user must keep role and password: such a case is about a user that does not exist.
    path = case.path_parameters or {}
    if case.operation.path == "/api/users/{id}" and path.get("id") == Bearer.user:
        path["id"] = str(uuid.uuid4())
    # A header that nobody knows is no error in HTTP. schemathesis knows it too, but for paths that
    # it takes from earlier answers.
    if path and "x-schemathesis-unknown-property" in (case.headers or {}):
        path.update({name: str(uuid.uuid4()) for name in path})
    # An event that is far ahead is waited for, then answered 503, as documented (a test of the
    # routes shows it). Here every 5xx is a finding, so the number is one that has passed.
    headers = case.headers or {}
    number = headers.get("X-Limen-Event")
    if isinstance(number, str) and number.isascii() and number.isdigit() and int(number) < 1 << 53:
        headers["X-Limen-Event"] = "0"
    # So is a host without the space for a disk (507): a size that may be is one that fits.
    body = case.body if case.operation.label == "POST /api/vms" and isinstance(case.body, dict) else {}
    for disk in body.get("disks") if isinstance(body.get("disks"), list) else []:
        size = disk.get("size_gib") if isinstance(disk, dict) else None
        if type(size) is int and 1 < size <= 65536:
            disk["size_gib"] = 1
