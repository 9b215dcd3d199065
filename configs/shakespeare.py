"""tinyshakespeare."""

from ml_collections import ConfigDict


def get_config(size="default"):
    """x"""
    config = ConfigDict()
    config.seed = 0
    config.num_steps = 2000
    config.log_every = 50
    config.evaluate_every = 1000
    config.evaluate_windows = 256
    config.model = ConfigDict(
        dict(
            d_model=128,
            num_layers=4,
            tied_embeddings=True,
            norm_epsilon=1e-6,
            compute_dtype="float32",
            remat=False,
            mixer="retention",
            num_heads=4,
            key_width=32,
            value_width=32,
            chunk_size=64,
            first_decay_exponent=3.0,
            rotary_kind="linspace",
            rotary_base=10000.0,
            rotary_layout="half",
            ffn="kan",
            hidden_width=48,
            grid_low=-3.0,
            grid_high=3.0,
            grid_intervals=3,
            spline_degree=3,
            spline_share=0.5,
            num_experts=4,
            experts_per_token=2,
            num_shared_experts=1,
            expert_width=12,
            expert_dispatch="dense",
            first_dense_layers=0,
            router_score="softmax",
            router_groups=1,
            router_groups_per_token=1,
            router_normalize=True,
            router_scale=1.0,
            linear="ternary",
            activation_bits=8,
            sub_norm=True,
        )
    )
    config.data = ConfigDict(
        dict(
            source="text",
            path="tinyshakespeare.txt",
            tokenizer="characters",
            sequence_length=64,
            batch_size=12,
            validation_fraction=0.1,
            num_threads=1,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            schedule="two_stage",
            peak_rate=4e-3,
            second_peak_rate=2.7e-3,
            final_fraction=0.02,
            decay_fraction=0.2,
            warmup_steps=100,
            b1=0.9,
            b2=0.95,
            epsilon=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        )
    )
    config.training = ConfigDict(dict(accumulation_steps=1, balance_loss=0.01, router_bias_rate=0.0))
    config.checkpoint = ConfigDict(dict(every=1000, keep=2))
    config.mesh = ConfigDict(dict(data=1, expert=1, model=1, context=1))
    return config.lock()
