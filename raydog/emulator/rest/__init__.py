"""The platform's REST API over `raydog.emulator.platform`: thin; no rule of the platform lives here."""
