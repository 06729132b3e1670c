"""Who collects the money for plans: one Protocol, by hand or through Razorpay."""
