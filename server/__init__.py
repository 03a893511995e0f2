"""The serving stack: engine, gateway, telemetry and the control socket, in processes of their own."""
