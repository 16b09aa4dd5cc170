"""A bus for a vendor: it shares a made-up district's data under one agreement.

A vendor develops against the bus that `bus sandbox` starts. `bus vendors certify` runs a vendor's
subscriber on such a bus, and prints a report for the district about what the subscriber holds.

    agreement file -> fitted_agreement -> made_up_district -> vendor_bus -> the vendor's topics

`daily_changes` changes the district day by day. `certification` has the steps of a certification,
`subscriber` runs the vendor's program, and `state_file` reads what the program holds.
"""
