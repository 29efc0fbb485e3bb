"""What the commands do and print; `saferflow.commands` declares them."""
