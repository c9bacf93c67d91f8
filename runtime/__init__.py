"""What commands of every kind share: devices and how they are used."""
