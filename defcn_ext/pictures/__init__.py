"""All that draws: detections, score maps, labels, training pictures."""
