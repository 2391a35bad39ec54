"""ttrpc, both roles, unary: the protocol of the kata shim, the kata agent, relay.sock and the guest link.

    bytes ──► frames ──► connection ──► calls, answers     frames, messages, connection: pure, no clock, no socket
    bytes ◄── frames ◄── connection ◄── answers, calls     messages: what a frame's payload holds
                             ▲
              unix ──────── aio ──────► service            aio: deadlines, limits, handlers; the only asyncio here
        socket files,    Server, Client   handlers
        who connects                      by method

Called by hypervisor, relay, relay.client and the guest. Relay and guest drive `connection` over their own TLS links;
`aio` serves and dials unix sockets.

Never: streaming calls (kata makes none; they are refused, each on its own stream), knowledge of any one service.
"""
