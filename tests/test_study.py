"""The study's verdicts follow from rows."""

import numpy as np
import pandas as pd

from benchmarks import study


def settings(recall_kept):
    """Rows of one generator, 100 samples; precision stays."""
    rows = []
    for bits, clipping, kept in [(None, None, 1), (4, "none", 0.5), (4, "mse", recall_kept)]:
        row = {"generator": "g", "bits": bits, "clipping": clipping, "seed": 0, "hits": {}}
        row["n"] = 100
        for metric in study.METRICS:
            for score, share in (("precision", 0.8), ("recall", 0.8 * kept)):
                row[f"{metric}_{score}"] = share
                row["hits"][f"{metric}_{score}_hits"] = np.arange(100) < 100 * share
        rows.append(row)
    return rows


def test_the_study_says_which_score_falls_and_whether_clipping_helps():
    frame = pd.DataFrame(study.compare("data", settings(0.75)))
    assert (study.falls(frame) == "recall").all()
    text, table = study.verdict_a(frame)
    assert "Recall falls more than precision in 100%" in text
    assert table["of"].tolist() == [2, 2, 2]  # settings of a metric
    text, table = study.verdict_d(frame)
    assert "with mse at 4 bits" in text
    assert table["recall median"].tolist() == ["+50.0 %"]
    text, table, _ = study.verdict_e(frame, pd.DataFrame(study.compare("", settings(0.25))))
    assert "in 6 of 6 settings" in text  # recall falls
    assert table["contrary"].tolist() == [0, 0, 3]  # and clipping makes it worse
    assert study.moves(frame, "precision").eq("≈").all()


def test_the_study_says_which_loss_fid_follows():
    rows = settings(0.75)
    for row, precision, fid in zip(rows, (0.8, 0.7, 0.75), (1.0, 3.0, 2.0), strict=True):
        row |= {"knn_precision": precision, "fid_distance": fid, "kid_distance": -precision}
    rows[1]["knn_recall"] = 0.9  # more than before
    text, table = study.verdict_g(study.distances_of({"data": rows}))
    assert "more closely than precision for 0 of 1 generators" in text
    assert table["ρ of FID and precision"].tolist() == [-1]
    assert table["ρ of FID and recall"].tolist() == [0.5]
    assert study.distances_of({"data": settings(0.75)}).empty
