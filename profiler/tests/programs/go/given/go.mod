module example.org/given

go 1.19
