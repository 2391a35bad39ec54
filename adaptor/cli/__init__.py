"""The `peerpods` command, one module per family of verbs.

    parser ──add_parser(verbs)──► serve     adaptor
                                  relay     relay
                                  check     check, config
                                  pods      ps, describe, trace, logs, console
                                  instances instances list, choose, quota
                                  journal   journal
                                  simcloud  simcloud
                                  demo      demo

Each family declares its verbs in `add_parser` and imports what they need only when they run, so that `--help` is
quick and the relay stays small. Only `adaptor.__main__` calls this room. Nothing is decided here: arguments in, one
call down, errors out as one readable line.
"""
