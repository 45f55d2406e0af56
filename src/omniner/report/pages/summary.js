// Shows all tables of the JSON block in their places, with the tools of `page`.
page.start([() => Object.keys(page.data.tables).forEach((name) => page.show(name))]);
