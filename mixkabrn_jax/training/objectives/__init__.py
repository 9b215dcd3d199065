"""What is minimised. An objective is one file here with one frozen dataclass, whose fields are a config section.

The step (`training.step`) asks three things of it, all of them pure functions of arrays:

    counts(batch) -> Counts          what means over this batch are taken over
    loss(model, batch, batch_counts, num_parts) -> (loss, Totals)
                                     the part of the loss that this part of the batch has a share in: added up over all
                                     parts it is the loss of the batch, whose counts it is given
    totals(model, batch) -> Totals   what an evaluation reports, without coefficients

`Counts` and `Totals` are those of `training.totals`. Gradients, accumulation, meshes, the guard and the log are the
same for all objectives: adapters are another file beside `language.py`, not another trainer. What reports in other
units than nats and bytes also changes `training.totals`, and a second objective the type of `config.objective`.
"""
