"""Examples at the end of each command's help, without the program's name; those of ``search`` are beside it."""

EXAMPLES = {
    "": (
        "prepare synthetic data/synthetic",
        "train --config-file t2i_synthetic_cpu",
        'search "a woman in a red jacket" photos --model log/demo',
    ),
    "train": (
        "--config-file t2i_synthetic_cpu",
        "--config-file t2i_vit_mamba data.root DIR train.batch_size 128 data.sources cuhkpedes,icfgpedes",
        "--config-file t2i_vit_mamba --resume",
        "--recipe irra data.root DIR",
        "--config-file market1501_t2ireid --root DIR",
        "--config-file market1501_t2ireid -s market1501 -t msmt17 --transforms random_flip",
    ),
    "test": (
        "log/run",
        "log/run --visualize",
        "log/run data.root DIR data.targets icfgpedes test.protocols t2i,i2t",
        "log/run data.root DIR data.targets pab_track4 test.answer_file answer.txt",
        "--config-file t2i_vit_mamba model.load_weights weights.pth",
        "--recipe irra data.root DIR model.load_weights best.pth",
    ),
    "probe": ("log/run data.root data/outfits",),
    "prepare": (
        "synthetic data/synthetic",
        "table people.csv --images photos --out data/own",
        "check data/own --dataset custom",
    ),
    "prepare synthetic": (
        "data/synthetic",
        "data/small --train-ids 100 --val-ids 30 --test-ids 30",
        "data/synthetic_zh --language zh",
        "data/clothes --outfits 2 --layouts ltcc prcc itcpr",
    ),
    "prepare table": ("people.csv --images photos --out data/own",),
    "prepare check": ("reid-data", "data/own --dataset custom"),
    "compare": ("log/a log/b", "log/a log/a --protocols t2i caption"),
    "transfer": (
        "--config-file t2i_vit_mamba --sets cuhkpedes,icfgpedes,rstpreid --out log/transfer data.root reid-data",
    ),
    "ablate": ("--config-file ablation/drawn --grid ablation/grid --out log/ablation --rows demo itc --seeds 1 2",),
    "export": ("log/run exported", "log/run exported_onnx --onnx"),
    "index": ("build photos --model log/run --out people.idx", "add people.idx more --camera cam3", "info people.idx"),
    "configs": ("",),
    "config": ("", "--config-file t2i_clip_mamba", "--config-file t2i_vit_mamba train.lr 1e-4"),
}
