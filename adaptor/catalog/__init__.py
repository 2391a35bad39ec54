"""Which machine a pod gets, and why not the others (D7).

    offerings (from the provider) + what the pod asked for ──► select ──► ranked choices + refusals with reasons
       ▲ prices of the admin's file        ▲ wishes              ▲ constraints of [selection], unavailable

    select       the rules and the order          wishes     the machine_type annotation
    unavailable  what was refused a while ago     explain    texts of a pod's event
    chooser      all of it for one adaptor        patterns   wildcards and families

`sandbox.placing` tries the choices in order. Nothing here calls a cloud or reads a clock.
"""
