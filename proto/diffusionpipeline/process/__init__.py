"""What every process needs: settings, logs, servers and channels. A program imports those of them that it uses."""
