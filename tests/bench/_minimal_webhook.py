"""The least that an admission webhook in aiohttp can be: decode the review, allow it.

python -m tests.bench._minimal_webhook CERTIFICATE KEY PORT
"""

import json
import ssl
import sys

import uvloop
from aiohttp import web


async def review(request: web.Request) -> web.Response:
    asked = json.loads(await request.read())
    response = {"uid": asked["request"]["uid"], "allowed": True}
    return web.json_response({"apiVersion": asked["apiVersion"], "kind": asked["kind"], "response": response})


def main() -> None:
    certificate, key, port = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_post("/mutate", review)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(port), ssl_context=context, access_log=None, loop=loop, print=None)


if __name__ == "__main__":
    main()
