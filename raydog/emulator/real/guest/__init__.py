"""What runs on the instances' side of the wall: the keeper of the namespaces and PID 1 of each instance.

The keeper is started with the bare interpreter (``-I -S``) and this folder as its only package, so it holds
nothing but a few modules of the standard library, and an instance is a fork of it: no interpreter start, no
imports. Modules here therefore import each other relatively and nothing else of RayDog.
"""
