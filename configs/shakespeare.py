"""tinyshakespeare at nanoGPT's CPU budget: 1.54 M training characters, at most 0.80 M parameters, context 64.

    python -m experiments.train --config=configs/shakespeare.py --config.data.path=tinyshakespeare.txt \
        --workdir=runs/shakespeare

The file (1.1 MB, first 90% train, last 10% validation) is not shipped: bring your own copy. nanoGPT's recipe for this
budget (4 layers, 4 heads, width 128, 0.80 M parameters) ends at 1.88 nats per character.

Measured: 0.769 M parameters (0.597 M active), 2 CPU cores, 9 minutes beside other work, validation loss 1.784 nats
per character (five other runs of equal or nearly equal settings: 1.770 to 1.779).
"""

from ml_collections import ConfigDict


def get_config():
    """Every field of the experiment."""
    config = ConfigDict()
    config.seed = 0
    config.num_steps = 2000
    config.log_every = 50
    config.evaluate_every = 500
    config.evaluate_windows = 256  # of an evaluation on the way; the last one takes all

    config.model = ConfigDict()
    config.model.d_model = 128
    config.model.num_layers = 4
    config.model.tied_embeddings = True
    config.model.embedding_scale = 1.0
    config.model.residual = "pre_norm"  # or deepnorm
    config.model.norm_epsilon = 1e-6
    config.model.compute_dtype = "float32"  # or bfloat16; parameters, states, norms, router and logits stay float32
    config.model.remat = False  # True recomputes layers in the backward pass: half the memory, a tenth slower on a CPU
    config.model.kernels = False  # Pallas kernels for NVIDIA GPUs; not yet measured on one
    # Sequence mixing: retention or attention.
    config.model.mixer = "retention"
    config.model.num_heads = 4
    config.model.key_width = 32  # of one head
    config.model.value_width = 32  # of one head
    config.model.chunk_size = 0
    config.model.decay = "paper"  # or lm, learned, gated
    config.model.first_decay_exponent = 3.0  # head h forgets 2^-(3 + h) a step: contexts are 64 long
    config.model.retention_norm = "sqrt_sum"  # or none, which a gated decay needs
    config.model.rotary_kind = "linspace"  # RetNet's frequencies; rope has RoFormer's
    config.model.rotary_base = 10000.0
    config.model.rotary_layout = "half"  # or interleaved
    # Feed-forward: kan, mlp, swiglu or geglu.
    config.model.ffn = "kan"
    config.model.hidden_width = 36  # of the dense feed-forward, where num_experts = 0 and in first_dense_layers
    config.model.grid_low = -3.0  # inputs arrive RMS-normalised
    config.model.grid_high = 3.0
    config.model.grid_intervals = 3
    config.model.spline_degree = 3
    config.model.outside_grid = "fade"  # to 0; clamp keeps the value at the end of the grid, linear its slope too
    config.model.knots = "uniform"  # static and shared; adaptive: a buffer, moved by training.grid_update_every
    config.model.kan_basis = "bspline"  # or chebyshev, fourier, rbf, rational (KAT)
    config.model.rational_groups = 8  # of features, each with one rational function
    config.model.kan_init = "variance"  # preserving; or pykan, glorot, lecun
    config.model.spline_share = 0.5  # of a KAN layer's initial output variance, the rest is the base matrix's
    config.model.train_base = True  # False freezes the base matrices, train_spline the splines
    config.model.train_spline = True
    # Mixture of experts.
    config.model.num_experts = 4  # 0 = one dense feed-forward
    config.model.experts_per_token = 2
    config.model.num_shared_experts = 1
    config.model.expert_width = 12
    config.model.expert_dispatch = "dense"  # for few narrow experts; sorted where work must not grow with their number
    config.model.capacity_factor = 0.0  # 0 drops nothing; above, each expert has room for this many even parts
    config.model.first_dense_layers = 0
    config.model.router_score = "softmax"  # or sigmoid
    config.model.router_groups = 1
    config.model.router_groups_per_token = 1
    config.model.router_normalize = True
    config.model.router_scale = 1.0
    config.model.router_device_groups = 1  # devices that experts are shared out to, for device_balance_loss
    # Number format of the large matrices: ternary, binary or dense. Embedding, head, norms and router are float32, and
    # so are the spline coefficients unless spline_linear says otherwise.
    config.model.linear = "ternary"
    config.model.activation_bits = 8
    config.model.down_activation_bits = 8  # before the last matrix of each branch, whose input has outliers
    config.model.spline_linear = "dense"  # or ternary: spline coefficients with a scale for each basis function
    config.model.quant_norm = "sub"  # norms before branches; inside: each quantised Linear normalises its own input
    config.model.sub_norm = True  # normalise before the last matrix of each branch

    config.data = ConfigDict()
    config.data.source = "text"
    config.data.path = ""  # set it to tinyshakespeare.txt
    config.data.tokenizer = "characters"  # or bytes
    config.data.sequence_length = 64
    config.data.batch_size = 12  # 2000 steps of 12 x 64 characters are nanoGPT's budget of 1.54 M
    config.data.validation_fraction = 0.1
    config.data.num_threads = 1  # batches do not depend on it
    config.data.timeout_seconds = 300.0  # a batch that is not there after so long ends the run; 0 waits for ever

    config.optimizer = ConfigDict()
    config.optimizer.schedule = "two_stage"  # BitNet's; or cosine, wsd
    config.optimizer.peak_rate = 4e-3
    config.optimizer.second_peak_rate = 2.7e-3  # two_stage only
    config.optimizer.final_fraction = 0.02
    config.optimizer.decay_fraction = 0.2  # wsd only
    config.optimizer.warmup_steps = 100
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.training = ConfigDict()
    config.training.accumulation_steps = 1
    config.training.balance_loss = 0.01
    config.training.sequence_balance_loss = 0.0  # the same within each row of a batch (DeepSeek-V3: 1e-4)
    config.training.device_balance_loss = 0.0  # of router_device_groups
    config.training.router_z_loss = 0.0  # keeps router logits small (ST-MoE: 1e-3)
    config.training.router_bias_rate = 0.0  # above 0: balance by bias (DeepSeek-V3), then balance_loss can be 0
    config.training.grid_update_every = 0  # above 0: adaptive knots move to their inputs every so many steps
    config.training.grid_update_until = 0  # the last step that they move before
    config.training.grid_uniform_fraction = 0.02  # of moved knots: 1 equally spaced, 0 quantiles

    config.guard = ConfigDict()
    config.guard.history_length = 128  # accepted updates that a new one is held against; 0 for no guard
    config.guard.sigmas = 6.0  # standard deviations above their mean that make a loss a spike
    config.guard.max_consecutive_skips = 10  # so many skipped updates in a row end the run

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 500
    config.checkpoint.keep = 2  # the newest
    config.checkpoint.keep_every = 0  # above 0: those of every so many steps stay for good
    config.checkpoint.keep_best = 0  # so many with the lowest validation loss stay

    config.mesh = ConfigDict()
    config.mesh.data = 1
    config.mesh.expert = 1
    config.mesh.model = 1
    config.mesh.context = 1

    config.profile = ConfigDict()
    config.profile.start = 10  # the first step of a trace in <workdir>/profile
    config.profile.steps = 0  # how many steps; 0 for no trace
    return config.lock()
