"""What others run on one thread of a CPU beside mixkabrn_run, each as a step of one token: ONNX Runtime, a Llama."""


def onnx_runtime(content):
    """The step of a model's file, exported as a graph of standard operators, as a function of a token."""
    import numpy as np
    import onnxruntime

    from mixkabrn_jax.export import onnx
    from mixkabrn_run import file

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = onnx.step(file.parse(content)).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    ports = session.get_inputs()[1:]
    # A dimension that grows, as that of an attention cache, starts at 0.
    shapes = [[size if isinstance(size, int) else 0 for size in port.shape] for port in ports]
    state = {port.name: np.zeros(shape, types[port.type]) for port, shape in zip(ports, shapes, strict=True)}

    def step(token):
        _, *after = session.run(None, {"token": np.array([token]), **state})
        state.update(zip(state, after, strict=True))

    return step


def llama(parameters, d_model, num_layers, vocab_size):
    """The step of transformers' Llama in float32, as wide and as deep, whose feed-forward makes up `parameters`."""
    import torch
    import transformers

    torch.set_num_threads(1)
    a_layer = (parameters - vocab_size * d_model) // num_layers
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=d_model,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, d_model // 64),
        intermediate_size=(a_layer - 4 * d_model**2) // (3 * d_model),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    found = sum(parameter.numel() for parameter in model.parameters())
    assert abs(found / parameters - 1) < 0.01, (found, parameters)
    cache = transformers.DynamicCache(config=config)

    def step(token):
        with torch.inference_mode():
            model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)

    return step
