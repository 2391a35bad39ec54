"""Which machine a pod gets, and why not the others (D7).

    offerings (from the provider) + what the pod asked for ──► select ──► ranked choices + refusals with reasons

`sandbox.driver` tries the choices in order. Nothing here calls a cloud.
"""
