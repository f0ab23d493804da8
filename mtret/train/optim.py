"""AdamW with warm-up, decay of the rate, weight decay by parameter name, and clipping."""

from dataclasses import dataclass

import optax

from mtret.errors import UserError
from mtret.pytrees import Tree, match_rules


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter, 1711.05101)."""

    learning_rate: float = 1e-4  # at the end of the warm-up
    warmup_steps: int = 10
    schedule: str = "cosine"  # "cosine" or "linear", to zero at the last step, or "constant"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    # (expression for the parameter's whole path, decayed or not); the first match counts, every parameter needs one
    decay: tuple[tuple[str, bool], ...] = (
        (r".*/(kernel|embedding)", True),
        (r".*/(bias|scale)", False),
        (r"log_scale", False),
    )
    clip_norm: float = 1.0  # global gradient norm; 0: no clipping


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Rate by step: linear warm-up, then `config.schedule` down to zero at `steps`."""
    rest = max(steps - config.warmup_steps, 1)
    peak = config.learning_rate
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }
    if config.schedule not in after:
        raise UserError(f"optim.schedule: '{config.schedule}' is not one of {', '.join(after)}")
    # The first step already moves: a rate of zero would waste it.
    warmup = optax.linear_schedule(peak / max(config.warmup_steps, 1), peak, max(config.warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after[config.schedule]], [config.warmup_steps])


def optimizer(config: OptimConfig, params: Tree, steps: int) -> optax.GradientTransformation:
    """The update rule for `params` (shapes are enough). Raises UserError where a parameter matches no decay rule."""
    mask = match_rules(params, config.decay, "optim.decay")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.adamw(
            learning_rate(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=mask,
        ),
    )
