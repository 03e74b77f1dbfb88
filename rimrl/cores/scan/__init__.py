"""Whole sequences in one autograd node: the backends of RIM, RigLSTM, LSTM and GRU (`rimrl.cores.backends`).

`loop` drives a cell over time. `rim` and `riglstm` are the cells of those cores on torch's operations, made of
stages: `input_attention`, `dynamics` and `communication` for RIM, `riglstm_stages` for RigLSTM. Where `library` finds
the compiled kernels of ``kernels.cpp``, `native` (RIM, LSTM) and `riglstm_native` take their place. `rim_backends`,
`riglstm_backends` and `lstm_backends` make the cells of a plain core, which knows nothing of them.
"""
