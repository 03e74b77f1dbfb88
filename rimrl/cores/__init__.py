"""Recurrent cores: networks over ``[T, B, I]`` that need torch and nothing else.

`rimrl.cores.registry.make_core` builds one by its name. A core runs on the fastest backend that it can:
`rimrl.cores.base.RecurrentCore.backend` says which that is, `rimrl.cores.base.RecurrentCore.backends` what else it has
and why that cannot run it now, and `rimrl.cores.backends.use_backend` chooses.
"""
