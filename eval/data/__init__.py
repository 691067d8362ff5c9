"""Where do rows come from?"""
