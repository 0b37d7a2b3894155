"""Random results, and the errors of `defcn_ext.evaluation.errors` once more: slow, box by box, one mend a function."""

import numpy as np

from defcn_ext.evaluation.image_results import ImageResult


def image(found, objects, crowd=()):
    """Of (x, y, w, h, class[, score]) rows."""
    found = np.array(found, dtype=float).reshape(-1, 6)
    objects = np.array(objects, dtype=float).reshape(-1, 5)
    flags = np.isin(np.arange(len(objects)), list(crowd))
    areas = objects[:, 2] * objects[:, 3]
    return ImageResult(
        found[:, :4], found[:, 5], found[:, 4].astype(int), objects[:, :4], objects[:, 4].astype(int), flags, areas
    )


def random_images(rng, count=6, classes=3, side=60):
    """Crowded scenes; detections around objects and elsewhere, of right and wrong classes, with ties of scores."""
    images = []
    for _ in range(count):
        objects = [
            (*rng.uniform(0, side, 2), *rng.uniform(8, 45, 2), rng.integers(classes)) for _ in range(rng.integers(0, 7))
        ]
        found = []
        for x, y, w, h, label in objects:
            for _ in range(rng.integers(0, 4)):
                shift = rng.choice([0.03, 0.1, 0.3])
                dx, dy, dw, dh = rng.normal(0, shift, 4)
                other = rng.integers(classes) if rng.random() < 0.25 else label
                box = (x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh))
                found.append((*box, other, rng.integers(1, 20) / 20))
        for _ in range(rng.integers(0, 3)):
            found.append((*rng.uniform(0, side, 2), *rng.uniform(8, 45, 2), rng.integers(classes), rng.random()))
        rng.shuffle(found)
        images.append(image(found, objects, [i for i in range(len(objects)) if rng.random() < 0.1]))
    return images


def iou(a, b, crowd=False):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    return common / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - common)


def slow_detections(images, t):
    """All detections in order, each a dict: its score, class, error and object; and all objects."""
    detections, objects = [], []
    for scene in images:
        first = len(objects)
        for box, label, crowd in zip(scene.objects, scene.object_classes, scene.crowd):
            objects.append({"box": box, "class": label, "crowd": crowd, "taken": False, "aimed": False})
        for i in sorted(range(len(scene.boxes)), key=lambda i: -scene.scores[i]):
            entry = {"score": scene.scores[i], "class": scene.classes[i]}
            entry["error"], entry["object"] = slow_error(scene.boxes[i], entry["class"], objects[first:], t)
            if entry["object"] is not None:
                entry["object"] += first
            detections.append(entry)
    detections.sort(key=lambda x: -x["score"])
    return detections, objects


def slow_error(box, label, objects, t):
    """(what it is, index of the object that it takes or should have taken)"""
    best = {}
    for index, other in enumerate(objects):
        own = other["class"] == label
        value = iou(box, other["box"], other["crowd"])
        for key in ("own", "free") if own and not other["taken"] else ("own",) if own else ("other",):
            key = "crowd" if own and other["crowd"] else key
            if other["crowd"] and key != "crowd":
                continue
            if value > best.get(key, (0.0,))[0]:
                best[key] = (value, index)
    value = {key: best.get(key, (0.0, None)) for key in ("own", "free", "other", "crowd")}
    if value["free"][0] >= t:
        objects[value["free"][1]]["taken"] = True
        return "right", value["free"][1]
    if value["crowd"][0] >= t:
        return "void", None
    if value["own"][0] >= t:
        return "duplicate", None
    if value["other"][0] >= t:
        objects[value["other"][1]]["aimed"] = True
        return "class", value["other"][1]
    if value["own"][0] >= 0.1:
        objects[value["own"][1]]["aimed"] = True
        return "place", value["own"][1]
    return ("both" if value["other"][0] >= 0.1 else "background"), None


def slow_ap(entries, totals):
    """Entries are (class, right), best first; 101 recalls, looked for one by one."""
    values = []
    for label, total in totals.items():
        if total == 0:
            values.append(1.0)
            continue
        curve, right, seen = [], 0, 0
        for own, hit in entries:
            if own == label:
                seen, right = seen + 1, right + hit
                curve.append((right / total, right / seen))
        levels = [r / 100 for r in range(101)]
        values.append(sum(max((p for recall, p in curve if recall >= r), default=0) for r in levels) / 101)
    return sum(values) / len(values)


def slow_errors(images, t):
    """(AP, {kind: AP won}) at one IoU threshold, without "order", which needs two."""
    detections, objects = slow_detections(images, t)
    totals = {}
    for x in objects:
        if not x["crowd"]:
            totals[x["class"]] = totals.get(x["class"], 0) + 1
    totals = dict(sorted(totals.items()))
    shown = [x for x in detections if x["error"] != "void"]
    ap = slow_ap([(x["class"], x["error"] == "right") for x in shown], totals)
    won = {}
    for kind in ("duplicate", "both", "background"):
        left = [x for x in shown if x["error"] != kind]
        won[kind] = slow_ap([(x["class"], x["error"] == "right") for x in left], totals) - ap
    won["rank"] = slow_ap([(x["class"], True) for x in shown if x["error"] == "right"], totals) - ap
    for kind in ("place", "class"):
        taken, entries = set(), []
        claimed = {x["object"] for x in shown if x["error"] == kind}
        for x in shown:
            if x["error"] == kind or (x["error"] == "right" and x["object"] in claimed):
                if x["object"] not in taken:
                    taken.add(x["object"])
                    entries.append((objects[x["object"]]["class"], True))
            else:
                entries.append((x["class"], x["error"] == "right"))
        won[kind] = slow_ap(entries, totals) - ap
    fewer = dict(totals)
    for x in objects:
        if not (x["crowd"] or x["taken"] or x["aimed"]):
            fewer[x["class"]] -= 1
    won["missed"] = slow_ap([(x["class"], x["error"] == "right") for x in shown], fewer) - ap
    return ap, won
