"""What a pod VM is made of: the guest programs, and the image they are packed into.

    guest/   runs in the VM: reads user-data, proves itself to the worker, is bound to one pod, carries its agent
    image/   the recipe, the measurement, the formats each cloud takes

The image room never runs in a VM; the guest room never runs on a worker (simcloud's instances aside).
"""
