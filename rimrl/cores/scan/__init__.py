"""Whole sequences in one autograd node: backends of RIM, RigLSTM, BRIMs, RMC, LSTM and GRU (`rimrl.cores.backends`).

`loop` drives a cell over time, step by step. `rim`, `riglstm` and `brims` are the cells of those cores on torch's
operations, made of stages: `input_attention`, `dynamics` and `communication` for RIM, `riglstm_stages` for RigLSTM, and
those of RIM with `elements` instead of `input_attention` for BRIMs. Where `library` finds the compiled kernels of
``kernels.cpp``, `compiled` runs whole sequences with cells that call one of those: `native` (RIM, LSTM),
`riglstm_loop`, `brims_native` and `rmc_loop`; `riglstm_native` has single stages of RigLSTM. `acting` is how they
act. `calls` calls kernels, and `threads` divides the rows of a batch among torch's threads. `rim_backends` and the like
make the cells of plain cores, which know nothing of them; `rim_layers` is what those of RIM and BRIMs share, for a RIM
of several input elements runs as a BRIMs of one layer.
"""
