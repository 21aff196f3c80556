"""Folders of as many pipeline classes as the zoo's components can make, tried one by one: what docs/models.md says.

`catalogue` names the classes, modules beside it make components that the zoo's families do not have, `trying` makes a
folder of one class and tries it, `page` writes what came of all.
"""
