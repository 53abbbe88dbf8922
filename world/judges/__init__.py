"""What recognises: evaluators, probes fitted on real composites, the text bridge, ceilings and scores."""
