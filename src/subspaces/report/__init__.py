"""One page and its figures from result rows alone: `write.write_report`."""
