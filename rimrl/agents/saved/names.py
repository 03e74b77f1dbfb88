"""Names of the files of an exported agent; imported by what must not wait for torch."""

CARD = "card.json"
WEIGHTS = "model.safetensors"
GRAPH = "policy.onnx"
