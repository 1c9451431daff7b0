"""ResNet32 on CIFAR-10, stored on phase-change memory: accuracy over a year.

    THETABOX_DATA=... python benchmarks/pcm.py --out results/                          # minutes on a CPU
    python benchmarks/pcm.py --full --train-device cuda --out results/                 # the paper's 300 epochs

Trains once (``resnet32.safetensors`` is not trained again), then writes ``pcm.json`` and ``pcm.png`` and prints the
table. The short training sees a few hundred pictures: it shows that everything works end to end, not what ResNet32
can do. ``--full`` is the training of Büchel, Faber, Muir (ICLR 2022): 300 epochs, batch 256, SGD with Nesterov
momentum 0.9 and weight decay 5e-4, rate 0.001, × 0.2 after 60, 120 and 160 epochs.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

import thetabox as tb
from thetabox import report
from thetabox.report.figures import to_png
from thetabox.report.measured_figures import ageing_figure
from thetabox.report.results import duration, percent


def train(args: argparse.Namespace, path: Path) -> None:
    """Train a ResNet32 and save its best epoch by validation accuracy."""
    torch.manual_seed(args.seed)
    data, validation = (tb.data.load("cifar10", split, args.data_dir) for split in ("train", "validation"))
    options = {"epochs": 300, "batch_size": 256, "lr": 1e-3, "schedule": "steps"}
    if not args.full:
        data, validation = data.subset(args.pictures), validation.subset(100)
        options = {"epochs": args.epochs, "batch_size": 50, "lr": 0.05}
    model = tb.models.ResNet32()
    training = tb.train.fit(
        model,
        data,
        validation,
        optimizer="sgd",
        weight_decay=5e-4,
        seed=args.seed,
        device=args.train_device,
        threads=args.threads,
        **options,
    )
    facts = {"accuracy": training.best_validation_accuracy, "samples": len(validation)}
    tb.save(model.cpu(), path, info={"task": "cifar10", "data": data.info, "validation": facts, **options})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--full", action="store_true", help="train as the paper does")
    parser.add_argument("--pictures", type=int, default=400, help="training pictures of the short training")
    parser.add_argument("--epochs", type=int, default=6, help="of the short training")
    parser.add_argument("--samples", type=int, default=100, help="test pictures")
    parser.add_argument("--draws", type=int, default=3, help="chips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train-device", default="cpu")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "resnet32.safetensors"
    if not path.exists():
        train(args, path)
    model = tb.load(path)
    test = tb.data.load("cifar10", "test", args.data_dir).subset(args.samples)
    facts = {"network": tb.models.checkpoint_info(path)["info"], "data": test.info, "machine": platform.machine()}
    print(f"{len(test)} test pictures, {args.draws} chips, {platform.processor() or platform.machine()}")
    for name, options in {
        "drift corrected": {},
        "not corrected": {"compensation": False},
        "corrected, ideal converters": {"adc_bits": 0, "dac_bits": 0},
    }.items():
        ageing = tb.measure.pcm(
            model, test.x, test.y, samples=args.draws, seed=args.seed, device=args.device, chunk=200, **options
        )
        if not facts.get("pcm"):
            figure = ageing_figure(ageing.times.numpy(), ageing.accuracy.numpy(), ageing.clean_accuracy)
            report.write_file(args.out / "pcm.png", to_png(figure))
            print(f"clean accuracy {percent(ageing.clean_accuracy)}, {len(ageing.converted)} matrices with converters")
        facts.setdefault("pcm", {})[name] = ageing.to_json()
        shown = (
            f"{duration(float(t))}: {percent(float(m))} ± {100 * float(s):.1f}"
            for t, m, s in zip(ageing.times, ageing.mean, ageing.std, strict=True)
        )
        print(f"{name}: {', '.join(shown)} ({ageing.seconds:.0f} s)", flush=True)
    report.write_file(args.out / "pcm.json", report.json_text(facts))


if __name__ == "__main__":
    main()
