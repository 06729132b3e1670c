"""The sandbox: Kite Connect 3 as a broker's customers know it, over the paper broker. No real money, no real market."""
