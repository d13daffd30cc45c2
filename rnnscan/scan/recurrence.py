from rnnscan.scan.linear_rules import scan

scan_p = scan.primitive
