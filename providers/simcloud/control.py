"""`/_simcloud`: faults over HTTP, and a look at the instances. For curl, for people, for `peerpods simcloud fault`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from providers.simcloud import wishes
from providers.simcloud.exchange import Cloud
from providers.simcloud.faults import Faults


def application(cloud: Cloud, faults: Faults, about: Callable[[], dict[str, Any]]) -> web.Application:
    """
    GET  /_simcloud            what this cloud is: endpoint, ids to launch with
    GET  /_simcloud/instances  every instance, with its console
    GET  /_simcloud/faults     what is still to go wrong
    POST /_simcloud/faults     {"boot": {"fate": "dies"}, "next": {...}}: cause them, in this order
    """

    async def describe(request: web.Request) -> web.Response:
        return web.json_response(about())

    async def instances(request: web.Request) -> web.Response:
        return web.json_response([asdict(each) for each in cloud.instances()])

    async def show(request: web.Request) -> web.Response:
        return web.json_response(faults.outstanding())

    async def cause(request: web.Request) -> web.Response:
        try:
            wanted = await request.json()
            if not isinstance(wanted, dict) or not all(isinstance(each, dict) for each in wanted.values()):
                raise ValueError('send an object of faults: {"capacity": {"free": 0}}')
            for verb, arguments in wanted.items():
                wishes.apply(faults, verb, arguments)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        except KeyError as error:
            return web.json_response({"error": f"there is no instance {error}"}, status=404)
        return web.json_response(faults.outstanding())

    made = web.Application()
    made.add_routes(
        [
            web.get("", describe),
            web.get("/instances", instances),
            web.get("/faults", show),
            web.post("/faults", cause),
        ]
    )
    return made
