"""ttrpc, both roles, unary: the protocol of the kata shim, the kata agent, relay.sock and the guest link.

    bytes ──► frames ──► connection ──► events        frames, messages, connection: pure, no clock, no socket
    bytes ◄── frames ◄── connection ◄── answers       messages: what a frame's payload holds
                             ▲
                            aio    unix sockets, deadlines, handlers: the only asyncio here

Called by hypervisor, relay, relay.client and the guest. Relay and guest drive `connection` over their own TLS
links; `aio` serves and dials unix sockets.

Never: streaming calls (kata uses none; they are refused per stream), knowledge of any one service.
"""
