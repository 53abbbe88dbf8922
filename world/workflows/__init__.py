"""The example workflows as data, one file per topic; write.py writes them, previews.py paints them, demo.py runs 01."""
