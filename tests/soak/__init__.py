"""All hostile acts at once, for as long as one likes: what has grown afterwards?"""
