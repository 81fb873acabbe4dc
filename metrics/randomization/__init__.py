"""Sanity checks: does a map change when the network, or the class, does?"""
