"""The commands behind RESULTS.md: test sets, trainings, and the runs whose results are kept."""

RUNS = {
    "patients": """python -m strega_jax.compare --fuse --data=brats/,gbm/,stroke/,ms/ --controls=ixi/ \\
    --controls_split=dev --output=results/patients""",
    "enhancing": """python -m strega_jax.compare --region=enhancing --data=gbm/ --contrasts=T1ce \\
    --output=results/enhancing""",
    "planted": """python -m strega_jax.train --evaluate --config=strega --checkpoint=strega_jax/weights \\
    --config.data.scans=ixi/ --config.data.planted=20 --config.data.lesions="('eq15/',)" \\
    --config.data.planted_kinds="('lesion','tumour','bilateral','plaques')" --workdir=results/planted""",
    "othersite": "python -m strega_jax.predict --input=othersite/ --output=results/othersite --nopages",
    "oasis": "python -m strega_jax.predict --input=oasis/ --output=results/oasis --nopages",
    "rendered": "python -m strega_jax.predict --input=rendered/ --output=results/rendered --nopages",
    "spots": "python -m strega_jax.compare --data=spots/ --output=results/spots",
    "seeds": """python -m strega_jax.compare --checkpoints=strega_jax/weights,runs/strega_seed1,runs/strega_seed2,\\
runs/tissue_seed0,runs/tissue_seed1,runs/tissue_seed2 --postprocess=value=0.25 \\
    --data=brats/,stroke/,eq15/ --controls=ixi/ --controls_split=dev --output=results/seeds""",
    "calibrated": """python -m strega_jax.compare --checkpoints=strega_jax/weights,runs/strega_seed1,\\
runs/strega_seed2 --data=brats/,stroke/,eq15/ --controls=ixi/ --controls_split=dev --output=results/calibrated""",
    "trainings": """python -m strega_jax.compare --checkpoints=strega_jax/weights,runs/strega_seed1,runs/strega_seed2,\\
runs/plain_seed0,runs/plain_seed1,runs/plain_seed2 --postprocess=value=0.25,grow_probability=0.0 \\
    --data=brats/,stroke/,eq15/ --controls=ixi/ --controls_split=dev --output=results/trainings""",
    "small": "python -m strega_jax.compare --fuse --postprocess=small --data=ms/,brats/ --output=results/small",
    "othersite_small": """python -m strega_jax.predict --postprocess=small --input=othersite/ --contrast=FLAIR \\
    --output=results/othersite_small --nopages""",
    "rendered_small": """python -m strega_jax.predict --postprocess=small --input=rendered/ --contrast=FLAIR \\
    --output=results/rendered_small --nopages""",
}
"""Name → the command that made it."""
MADE = {
    "eq15/": """python -m strega_jax.synthesize --kind=tumour --healthy=ixi/ --split=dev --donors=brats/ \\
    --donor_contrast=T1ce --output=eq15/""",
    "rendered/": """python -m strega_jax.synthesize --kind=rendered --healthy=ixi/ --split=dev --count=10 --seed=1 \\
    --as_contrasts=T1ce,T2w,FLAIR --output=rendered/""",
    "spots/": "python -m strega_jax.synthesize --kind=spots --healthy=ixi/ --split=dev --output=spots/",
}
"""Test set → the command that made it."""
TRAINED = (
    "python -m strega_jax.train --config=strega --config.seed=N --config.data.scans=ixi/ --workdir=runs/strega_seedN",
    "python -m strega_jax.calibrate --checkpoint=runs/strega_seedN --healthy=ixi/ --split=dev",
    """python -m strega_jax.train --config=strega --config.seed=N --config.data.scans=ixi/ \\
    --config.model.intensity_share=0 --workdir=runs/tissue_seedN""",
    """python -m strega_jax.train --config=strega --config.seed=N --config.data.scans=ixi/ \\
    --config.data.rendered="()" --workdir=runs/plain_seedN""",
)
"""What made the checkpoints of the runs `seeds`, `calibrated` and `trainings`."""
