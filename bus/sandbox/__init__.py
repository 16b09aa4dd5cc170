"""A bus for a vendor: a made-up district behind one agreement, on the vendor's own machine.

`bus sandbox` lets a vendor develop against it. `bus vendors certify` runs a vendor's subscriber on
it, and reports to the district what the subscriber made of the events.

    agreement file -> fitted_agreement -> made_up_district -> vendor_bus -> the vendor's topics

`daily_changes` keeps the district living. `certification` has the steps of a certification,
`subscriber` runs the vendor's program, and `state_file` reads what the program holds.
"""
